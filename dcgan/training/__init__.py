"""What an iteration computes: the adversarial model, its losses, augmentation, averages and precision."""
