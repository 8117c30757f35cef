"""Numbers from predictions and labels: metrics, intervals, calibration; knows no model and no jax."""
