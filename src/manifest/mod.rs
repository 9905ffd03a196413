//! What a repository says: pipelines and vars, read and checked; the only place that names a YAML parser.
