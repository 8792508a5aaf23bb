"""What answers are worth: metrics, intervals, comparisons and the gate. Numbers in, numbers out."""
