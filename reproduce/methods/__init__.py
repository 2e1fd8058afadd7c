"""The methods that the paper compares, each as the authors ran it."""
