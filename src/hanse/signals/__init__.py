"""Time series on one time axis: carbon, price, weather, demand."""
