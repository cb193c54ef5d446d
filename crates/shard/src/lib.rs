//! Memory-mapped token shards and the resumable order in which training reads them.
