"""The corpus folder: manifest, file shards, statistics, cards."""
