//! The whole program as people use it: `serve` in a scratch directory, real `git push`, the command line, plain HTTP over
//! the socket. No machine boots here: bundles fail in `boot` for want of a base image, or wait for disk space.

mod commands;
mod crash;
mod disk;
mod factory;
mod hostile;
mod images;
mod lifecycle;
mod offline;
mod push;
