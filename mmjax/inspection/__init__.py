"""Looking data over before an hour is spent on it, and the recipe that fits it."""
