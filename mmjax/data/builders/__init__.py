"""Builders of data sets (tensorflow-datasets, array_record): they run without TensorFlow."""
