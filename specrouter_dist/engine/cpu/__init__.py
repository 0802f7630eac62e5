"""The decoder on CPUs: one compiled call for a whole forward."""
