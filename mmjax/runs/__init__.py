"""What a run leaves and what it shares with others: folder, lock, signals, peers."""
