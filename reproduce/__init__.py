"""What the paper's tables and the demo run on: flat scripts in the checkout, not in the package."""
