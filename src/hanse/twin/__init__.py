"""The digital twin: a discrete-event simulation of a fleet in which the decision core decides as it does live."""
