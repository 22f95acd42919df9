"""Search for what to prune: points of a space, what each is worth, and strategies that ask and are told."""
