"""Labels, features, probes and the leaderboard: from embeddings to downstream scores."""
