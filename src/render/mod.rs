//! Output templates.
