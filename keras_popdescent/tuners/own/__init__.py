"""Training code of the user's own, as KerasTuner would call it: the same population around it."""
