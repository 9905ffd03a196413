//! Machines and what runs in and beside them.
