//! The command line: one file per group of commands, words and marks in `text`, the daemon behind `client`.
//!
//! Data goes to standard output, talk to standard error. Every command that prints also takes `--json`.

mod ansible;
mod artifacts;
mod build;
mod check;
mod client;
mod failure;
mod hook;
mod images;
mod logs;
mod look;
mod orphans;
mod outputs;
mod packaging;
mod plan;
mod render;
mod status;
mod text;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use self::client::Client;
pub use self::failure::{Code, Failure};
use self::text::Style;

/// An image factory in one binary: a git push ends in a tested, published image.
#[derive(Debug, Parser)]
#[command(name = "factoryd", version, max_term_width = 100, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Arguments {
    /// The daemon's socket.
    #[arg(
        long,
        global = true,
        env = "FACTORYD_SOCKET",
        default_value = "/run/factoryd/factoryd.sock",
        value_name = "FILE"
    )]
    socket: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the build or check failed, 2 usage, 3 the daemon is not reachable, \
4 not allowed, 5 no such build, image, artifact or bundle.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve {
        /// The configuration; its drop-ins lie in FILE.d beside it.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Health, queue, running builds, last result and freshness per bundle.
    Status,
    /// What would be built, and why; creates nothing.
    Plan(plan::Options),
    /// Start a build by hand.
    Build(build::Options),
    /// List builds, the newest first.
    Builds(look::BuildsOptions),
    /// A build: what happened, the first error on top.
    Show {
        /// The build's number.
        build: BuildArgument,
    },
    /// Why a build ran: which inputs changed.
    Why {
        /// The build's number.
        build: BuildArgument,
    },
    /// The log of a build.
    Logs(logs::Options),
    /// Stop a build.
    Cancel {
        /// The build's number.
        build: BuildArgument,
    },
    /// Do an ended build again.
    Retry {
        /// The build's number.
        build: BuildArgument,
        /// The first stage that runs even if its result is known.
        #[arg(long, value_name = "STAGE")]
        from: Option<String>,
    },
    /// List or fetch the files that a build left.
    Artifacts(artifacts::Options),
    /// The catalogue of images.
    Images(images::Options),
    /// Check the pipelines and bundles of a directory as it lies.
    Check(check::Options),
    /// Render a bundle's output templates for an image id.
    Render(render::Options),
    /// Print the JSON Schema of a file format: pipeline.
    Schema {
        /// Which.
        what: String,
    },
    /// What arrived, and what became of it.
    Deliveries,
    /// Deprecate and remove what retention no longer keeps, and what nothing refers to.
    Gc,
    /// What builds that are over have left outside: machines, addresses, images half made.
    Orphans(orphans::Options),
    /// Check the store: sums, rows, journals.
    Verify,
    /// What git's hooks run.
    #[command(subcommand, hide = true)]
    Hook(hook::Hook),
    /// Print a completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory.
    Man {
        /// The directory.
        directory: PathBuf,
    },
}

/// A build's number, with or without `#`.
#[derive(Clone, Copy, Debug)]
struct BuildArgument(u64);

impl std::str::FromStr for BuildArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('#').unwrap_or(text);
        digits.parse().map(Self).map_err(|_| format!("`{text}` is not a build's number, such as 42"))
    }
}

/// What every command is given.
struct Context {
    client: Client,
    json: bool,
    style: Style,
}

impl Context {
    /// Prints an answer: as JSON where that was asked for, else as the closure says it.
    fn print<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T, Style) -> String) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string_pretty(answer)
                .map_err(|error| Failure::failed(format!("the answer can't be written as JSON: {error}")))?;
            return say(&format!("{json}\n"));
        }
        say(&self.style.shown(&text(answer, self.style)))
    }
}

/// Writes to standard output. A reader that went away is no error: `factoryd builds | head` is a fair thing to say.
fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::quiet()),
        Err(error) => Err(Failure::failed(format!("can't write the output: {error}"))),
    }
}

/// Runs the command line that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let context = Context { client: Client::new(&arguments.socket), json: arguments.json, style: Style::of_stdout() };
    match run(arguments.command, &context, &arguments.socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", context.style.plain().shown(&failure.to_string()));
            failure.exit_code()
        }
    }
}

fn run(command: Command, context: &Context, socket: &std::path::Path) -> Result<(), Failure> {
    match command {
        Command::Serve { config } => {
            crate::daemon::serve(config.as_deref()).map_err(|error| Failure::failed(format!("{error:#}")))
        }
        Command::Check(options) => check::run(context, &options),
        Command::Render(options) => render::run(context, &options),
        Command::Schema { what } => packaging::schema(&what),
        Command::Completions { shell } => packaging::completions(shell),
        Command::Man { directory } => packaging::man(&directory),
        Command::Plan(options) if options.repo.is_some() => plan::offline(context, &options),
        Command::Hook(hook) => hook::run(&hook, socket),
        online => wait_for(ask(online, context)),
    }
}

/// Commands that ask the daemon: one thread is enough for them.
fn wait_for<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("no runtime: {error}")))?
        .block_on(future)
}

async fn ask(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Status => status::run(context).await,
        Command::Plan(options) => plan::online(context, &options).await,
        Command::Build(options) => build::run(context, &options).await,
        Command::Builds(options) => look::builds(context, &options).await,
        Command::Show { build } => look::show(context, build.0).await,
        Command::Why { build } => look::why(context, build.0).await,
        Command::Logs(options) => logs::run(context, &options).await,
        Command::Cancel { build } => build::cancel(context, build.0).await,
        Command::Retry { build, from } => build::retry(context, build.0, from).await,
        Command::Artifacts(options) => artifacts::run(context, &options).await,
        Command::Images(options) => images::run(context, &options).await,
        Command::Deliveries => look::deliveries(context).await,
        Command::Gc => look::gc(context).await,
        Command::Orphans(options) => orphans::run(context, &options).await,
        Command::Verify => look::verify(context).await,
        offline => Err(Failure::usage(format!("{offline:?} asks no daemon"))),
    }
}
