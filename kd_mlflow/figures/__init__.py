"""Plots: data in, matplotlib figures out; never saved here."""
