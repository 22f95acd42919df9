"""Recurrent layers: the gates of one hidden unit lie far apart and go together."""

from __future__ import annotations

import torch
from graph.nets_case import SEQUENCE, Case, Footprint, normal
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Linear -> recurrent layer -> linear on the last step. ``width``: features of one step."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(4, 6), layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.layer(self.embed(x))
        return self.head(steps[:, -1] if self.layer.batch_first else steps[-1])


class LastState(nn.Module):
    """Reads the state of the last layer, not the steps; h_n is [layers, batch, hidden]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 8, num_layers=2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, c) = self.layer(x)
        return self.head(torch.cat([h[-1], c[-1]], dim=1))


class Initial(nn.Module):
    """The first state is made in the forward pass, of a size kept as an attribute."""

    def __init__(self, *, typed: bool) -> None:
        super().__init__()
        self.hidden, self.typed = 8, typed
        self.layer, self.head = nn.LSTM(4, self.hidden, batch_first=True), nn.Linear(self.hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        options = {"dtype": x.dtype, "device": x.device} if self.typed else {}
        zeros = torch.zeros(1, x.shape[0], self.hidden, **options)
        return self.head(self.layer(x, (zeros, zeros))[0][:, -1])


class LearnedInitial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.layer, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x, self.first.expand(-1, x.shape[0], -1).contiguous())[0][:, -1])


class LSTMLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = 8
        self.cell, self.head = nn.LSTMCell(4, self.hidden), nn.Linear(self.hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.hidden)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.head(h)


class GRULoop(nn.Module):
    """A cell that starts from nothing makes its first state itself, from its own attribute."""

    def __init__(self, cell: type[nn.RNNCellBase] = nn.GRUCell) -> None:
        super().__init__()
        self.cell, self.head = cell(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(x[:, 0])
        for t in range(1, x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


class ConvLSTM(nn.Module):
    """The gates are chunks of one convolution over input and state side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 4
        self.gates = nn.Conv2d(3 + self.hidden, 4 * self.hidden, 3, padding=1)
        self.head = nn.Conv2d(self.hidden, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, height, width = x.shape
        h = c = torch.zeros(b, self.hidden, height, width, dtype=x.dtype)
        for _ in range(2):
            i, f, o, g = torch.chunk(self.gates(torch.cat([x, h], dim=1)), 4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class PooledColumns(nn.Module):
    """A convolution whose columns are read by a GRU, as in text recognition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.GRU(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.conv(x).relu().mean(2).permute(2, 0, 1)  # [width, batch, channels]
        return self.head(self.gru(columns)[0]).permute(1, 0, 2)


def gates(count: int, hidden: int) -> Footprint:
    return [[gate * hidden + unit for gate in range(count)] for unit in range(hidden)]


def layer(suffix: str, hidden: int = 8) -> dict[str, int]:
    """What one layer of one direction holds of its own hidden units."""
    return {
        f"layer.weight_ih_{suffix}.0": hidden,
        f"layer.weight_hh_{suffix}.0": hidden,
        f"layer.weight_hh_{suffix}.1": hidden,
        f"layer.bias_ih_{suffix}.0": hidden,
        f"layer.bias_hh_{suffix}.0": hidden,
    }


SMALL = normal(2, 3, 4, 4)
EMBED = {"embed.weight.0": 6, "layer.weight_ih_l0.1": 6}
ONE = EMBED | layer("l0") | {"head.weight.1": 8}
CELL = {"cell.weight_ih.0": 8, "cell.weight_hh.0": 8, "cell.weight_hh.1": 8, "head.weight.1": 8}

RECURRENT = {
    "lstm": Case(
        lambda: Recurrent(nn.LSTM(6, 8, batch_first=True), 8), SEQUENCE, ONE,
        footprint={"layer.weight_ih_l0.0": gates(4, 8), "layer.weight_hh_l0.1": gates(1, 8)},
    ),
    "lstm_time_first": Case(lambda: Recurrent(nn.LSTM(6, 8), 8), SEQUENCE, ONE),
    "lstm_without_bias": Case(
        lambda: Recurrent(nn.LSTM(6, 8, bias=False), 8), SEQUENCE,
        {k: n for k, n in ONE.items() if "bias" not in k},
    ),
    "lstm_two_layers": Case(
        lambda: Recurrent(nn.LSTM(6, 8, num_layers=2, batch_first=True), 8), SEQUENCE,
        ONE | layer("l1") | {"layer.weight_ih_l1.1": 8},
    ),
    "lstm_bidirectional": Case(
        lambda: Recurrent(nn.LSTM(6, 8, bidirectional=True, batch_first=True), 16), SEQUENCE,
        EMBED | layer("l0") | layer("l0_reverse"), among={"head.weight.1": 8},
    ),
    "lstm_two_layers_bidirectional": Case(
        lambda: Recurrent(nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True), 16), SEQUENCE,
        EMBED | layer("l0") | layer("l1_reverse"), among={"layer.weight_ih_l1.1": 8, "head.weight.1": 8},
    ),
    "lstm_projected": Case(
        lambda: Recurrent(nn.LSTM(6, 8, proj_size=4, batch_first=True), 4), SEQUENCE,
        EMBED | {
            "layer.weight_ih_l0.0": 8, "layer.weight_hr_l0.1": 8,
            "layer.weight_hr_l0.0": 4, "layer.weight_hh_l0.1": 4, "head.weight.1": 4,
        },
    ),
    "lstm_last_state": Case(LastState, SEQUENCE, layer("l0") | layer("l1"), among={"head.weight.1": 8}),
    "lstm_zeros_of_an_attribute": Case(
        lambda: Initial(typed=True), SEQUENCE, layer("l0") | {"head.weight.1": 8}),
    # torch.zeros without a dtype is float32, so a proof in float64 must say what the default is
    "lstm_zeros_without_a_dtype": Case(
        lambda: Initial(typed=False), SEQUENCE, layer("l0") | {"head.weight.1": 8}),
    "lstm_cell": Case(LSTMLoop, SEQUENCE, CELL, footprint={"cell.weight_ih.0": gates(4, 8)}),
    "conv_lstm": Case(
        ConvLSTM, SMALL,
        {"gates.weight.0": 4, "gates.weight.1": 4, "head.weight.1": 4},
        footprint={"gates.weight.0": gates(4, 4), "gates.weight.1": [[3], [4], [5], [6]]},
    ),
    "gru": Case(
        lambda: Recurrent(nn.GRU(6, 8, batch_first=True), 8), SEQUENCE, ONE,
        footprint={"layer.weight_ih_l0.0": gates(3, 8)},
    ),
    "gru_two_layers_bidirectional": Case(
        lambda: Recurrent(nn.GRU(6, 8, num_layers=2, bidirectional=True), 16), SEQUENCE,
        EMBED | layer("l0") | layer("l1"), among={"layer.weight_ih_l1.1": 8, "head.weight.1": 8},
    ),
    "gru_learned_initial": Case(LearnedInitial, SEQUENCE, layer("l0") | {"first.2": 8, "head.weight.1": 8}),
    "gru_cell": Case(GRULoop, SEQUENCE, CELL, footprint={"cell.weight_hh.0": gates(3, 8)}),
    "gru_on_columns": Case(
        PooledColumns, SMALL,
        {"conv.weight.0": 8, "gru.weight_ih_l0.1": 8, "gru.weight_hh_l0.1": 6, "head.weight.1": 6},
    ),
    "rnn": Case(lambda: Recurrent(nn.RNN(6, 8, batch_first=True), 8), SEQUENCE, ONE),
    "rnn_relu": Case(lambda: Recurrent(nn.RNN(6, 8, nonlinearity="relu"), 8), SEQUENCE, ONE),
    "rnn_cell": Case(lambda: GRULoop(nn.RNNCell), SEQUENCE, CELL),
}  # fmt: skip
