// raedit, the program: picks the subcommand, and turns every failure into one line on stderr and an exit code: 2 for a
// wrong command line, 1 for everything else, 128 + signal when interrupted.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "command.h"
#include "core/text.h"
#include "interrupt.h"
#include "print_stderr.h"
#include "raedit/error.h"
#include "version.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Examples:\n"
    "  raedit generate --label cat-face --seed 42 --output cat.png\n"
    "  raedit generate --label drink --count 16 --output drinks.png\n"
    "  raedit labels face\n"
    "  raedit info models/emoji64\n"
    "\n"
    "'raedit COMMAND --help' explains a command. Without --model, a command uses the model that\n"
    "RAEDIT_MODEL_PATH names, or else the bundled one.";

int complain(std::string message, int exit_code) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  print_stderr("raedit: error: " + message + "\n");
  return exit_code;
}

int complain_of_stdout(int error_number) {
  return complain("cannot write to standard output: " + std::generic_category().message(error_number), kExitFailure);
}

// A standard stream that was closed must not become the first file that is opened: what is printed would end up in it.
// The wrong direction on purpose, so that using the stream still fails.
void keep_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0) (void)::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

// "unknown option '--stpes' of 'raedit generate'; did you mean '--steps'?"
std::string describe_extras(CLI::App& program, const std::vector<Command>& commands) {
  const std::vector<CLI::App*> chosen = program.get_subcommands();
  const std::vector<std::string> extras = program.remaining(true);
  std::string word = extras.empty() ? "" : extras.front();
  const bool is_option = word.size() > 1 && word[0] == '-';
  if (is_option) word = word.substr(0, word.find('='));
  const std::string of = chosen.empty() ? "raedit" : "raedit " + chosen.front()->get_name();
  std::vector<std::string> candidates;
  std::string kind = "unexpected argument";
  if (is_option) {
    kind = "unknown option";
    candidates = option_names(chosen.empty() ? program : *chosen.front());
  } else if (chosen.empty()) {
    kind = "unknown command";
    for (const Command& command : commands) candidates.push_back(command.app->get_name());
  }
  std::string hint = did_you_mean(word, candidates);
  if (hint.empty()) hint = fmt::format("see '{} --help'", of);
  return chosen.empty() ? fmt::format("{} '{}'; {}", kind, word, hint)
                        : fmt::format("{} '{}' of '{}'; {}", kind, word, of, hint);
}

Command add_help(CLI::App& program) {
  auto topic = std::make_shared<std::string>();
  CLI::App* app = program.add_subcommand("help", "Show this help, or that of a command");
  app->add_option("COMMAND", *topic, "the command to explain");
  return {app, [&program, topic] {
            if (topic->empty()) {
              // program.help() would explain the command that was parsed: this one.
              fmt::print("{}", program.get_formatter()->make_help(&program, "raedit", CLI::AppFormatMode::Normal));
              return kExitOk;
            }
            std::vector<std::string> names;
            for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; })) {
              names.push_back(command->get_name());
              if (names.back() != *topic) continue;
              fmt::print("{}", command->help("raedit"));
              return kExitOk;
            }
            const std::string hint = did_you_mean(*topic, names);
            return complain(fmt::format("unknown command '{}'; {}", *topic, hint.empty() ? "see 'raedit help'" : hint),
                            kExitUsage);
          }};
}

int parse_and_run(int argc, char** argv) {
  CLI::App program{"Pictures from representation autoencoders and their diffusion transformers", "raedit"};
  program.footer(kFooter);
  program.set_version_flag("--version", std::string("raedit ") + kVersion, "Print the version and exit");
  program.set_help_flag("-h,--help", "Print this help and exit");
  program.require_subcommand(0, 1);
  const std::vector<Command> commands{add_generate(program),    add_labels(program),  add_info(program),
                                      add_reconstruct(program), add_compare(program), add_bench(program),
                                      add_help(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ExtrasError&) {
    return complain(describe_extras(program, commands), kExitUsage);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    return complain(error.what(), kExitUsage);
  }
  for (const Command& command : commands)
    if (command.app->parsed()) return command.run();
  print_stderr(program.help());
  return kExitUsage;
}

int run(int argc, char** argv) {
  try {
    return parse_and_run(argc, argv);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::cancelled) return complain("interrupted", 128 + Interrupt::signal_number());
    return complain(error.what(), error.code() == ErrorCode::invalid_argument ? kExitUsage : kExitFailure);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", kExitFailure);
  } catch (const std::system_error& error) {  // fmt::print, where stdout takes nothing
    if (std::ferror(stdout) != 0) return complain_of_stdout(error.code().value());
    return complain(fmt::format("internal error: {}", error.what()), kExitFailure);
  } catch (const std::exception& error) {
    return complain(fmt::format("internal error: {}", error.what()), kExitFailure);
  }
}

}  // namespace
}  // namespace raedit::cli

int main(int argc, char** argv) {
  raedit::cli::keep_standard_streams();
  const int exit_code = raedit::cli::run(argc, argv);
  // What was printed and did not get through must not look like success.
  errno = 0;
  if ((std::fflush(stdout) != 0 || std::ferror(stdout) != 0) && exit_code == 0)
    return raedit::cli::complain_of_stdout(errno != 0 ? errno : EIO);
  return exit_code;
}
