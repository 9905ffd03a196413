//! The configuration: TOML fragments to checked settings.
