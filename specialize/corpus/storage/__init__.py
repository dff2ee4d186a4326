"""The corpus folder: manifest, shards of records, statistics, cards."""
