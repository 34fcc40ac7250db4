"""What concerns several processes: signals, peers that are gone."""
