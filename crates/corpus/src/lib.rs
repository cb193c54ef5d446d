//! Raw text in, token shards out: readers for files and folders, and the shard job.
