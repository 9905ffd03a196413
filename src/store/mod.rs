//! What is remembered: the database, the content-addressed files, the logs.
