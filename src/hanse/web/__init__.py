"""The dashboard; it knows the view and nothing below it."""
