//! The whole program as people use it: `serve` in a scratch directory, real `git push`, the command line, plain HTTP over
//! the socket. No guest comes up here: bundles fail in `boot` for want of a base image, or wait for disk space.

mod commands;
mod crash;
mod disk;
mod factory;
mod hostile;
mod images;
mod install;
mod large;
mod lifecycle;
mod offline;
mod push;
mod remotes;
mod small_disk;
