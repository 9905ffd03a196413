//! The words of the factory and its decisions, free of the world.
//!
//! Everything here is plain data and pure functions: no async, no clock, no file, no serialisation format. What a build
//! is, when a stage need not run, what a plan says and why, which image serves a bundle, what retention may remove: all of
//! that is decided here and can be tested without a thread. Acting on the decisions is `engine`'s.

pub mod ansible_config;
pub mod build;
pub mod bundle;
pub mod expression;
pub mod id;
pub mod image;
pub mod inputs;
pub mod path;
pub mod pipeline;
pub mod places;
pub mod plan;
pub mod pool;
pub mod range;
pub mod retention;
pub mod stack;
pub mod template;
pub mod tree;
pub mod utc;
pub mod value;
