"""From a checkpoint's Jinja chat template to a Go TEMPLATE that provably says the same."""
