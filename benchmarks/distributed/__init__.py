"""Measure training over several GPUs: speed, memory and loading of every strategy."""
