"""What the benchmarks share: records on disk, children with limits, and what is measured in a child."""
