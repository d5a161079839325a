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
#include <string_view>
#include <system_error>
#include <vector>

#include "command.h"
#include "core/text.h"
#include "interrupt.h"
#include "print_stderr.h"
#include "raedit/error.h"
#include "values.h"
#include "version.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Examples:\n"
    "  raedit generate --label cat-face --seed 42 --output cat.png\n"
    "  raedit generate --label drink --count 16 --output drinks.png\n"
    "  raedit labels face\n"
    "  raedit info models/emoji64\n"
    "  raedit convert pipeline --repo_or_path RAE/ --output_path dit-dh-xl/\n"
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

// In the spelling of `like`, where an option has two.
std::vector<std::string> option_names(const CLI::App& app, const std::string& like) {
  const bool dashed = like.find('-', 2) != std::string::npos && like.find('_') == std::string::npos;
  const char other = dashed ? '_' : '-';
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string>& all = option->get_lnames();
    const size_t before = names.size();
    for (const std::string& name : all)
      if (name.find(other) == std::string::npos) names.push_back("--" + name);
    if (names.size() == before && !all.empty()) names.push_back("--" + all.front());
  }
  return names;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

// "unknown option '--stpes' of 'raedit generate'; did you mean '--steps'?"
std::string describe_extras(const CLI::App& program) {
  const CLI::App* app = &program;
  std::string of = "raedit";
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().front();
    of += " " + app->get_name();
  }
  const std::vector<std::string> extras = program.remaining(true);
  std::string word = extras.empty() ? "" : extras.front();
  const bool is_option = word.size() > 1 && word[0] == '-';
  if (is_option) word = word.substr(0, word.find('='));
  const std::vector<std::string> commands = command_names(*app);
  const char* kind = is_option ? "unknown option" : commands.empty() ? "unexpected argument" : "unknown command";
  std::string hint = did_you_mean(word, is_option ? option_names(*app, word) : commands);
  if (hint.empty()) hint = fmt::format("see '{} --help'", of);
  return app == &program ? fmt::format("{} '{}'; {}", kind, word, hint)
                         : fmt::format("{} '{}' of '{}'; {}", kind, word, of, hint);
}

// "--output=" takes what follows for its value otherwise.
std::string option_without_value(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--") break;
    if (word.starts_with("--") && word.ends_with('=')) return std::string(word.substr(0, word.size() - 1));
  }
  return "";
}

// A variable of a shell that was not set. Arguments without a name may be empty.
std::string option_with_empty_value(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string> values = option->results();
    if (!option->get_lnames().empty() && option->get_type_size() > 0 &&
        std::find(values.begin(), values.end(), "") != values.end())
      return "--" + option->get_lnames().front();
  }
  for (const CLI::App* command : app.get_subcommands())
    if (const std::string found = option_with_empty_value(*command); !found.empty()) return found;
  return "";
}

int complain_of_empty_value(const std::string& option) {
  return complain(fmt::format("{}: the value is empty", option), kExitUsage);
}

// program.help() would explain the command that was parsed.
std::string help_of(const CLI::App& app, const std::string& name) {
  return app.get_formatter()->make_help(&app, name, CLI::AppFormatMode::Normal);
}

Command add_help(CLI::App& program) {
  auto topic = std::make_shared<std::vector<std::string>>();
  CLI::App* help = program.add_subcommand("help", "Show this help, or that of a command");
  help->add_option("COMMAND", *topic, "the command to explain")->expected(0, 2);
  return {help, [&program, topic] {
            const CLI::App* app = &program;
            std::string name = "raedit";
            for (const std::string& word : *topic) {
              const std::vector<std::string> names = command_names(*app);
              if (std::find(names.begin(), names.end(), word) == names.end()) {
                const std::string of = app == &program ? "" : fmt::format(" of '{}'", name);
                const std::string hint = did_you_mean(word, names);
                return complain(fmt::format("unknown command '{}'{}; {}", word, of,
                                            hint.empty() ? fmt::format("see '{} --help'", name) : hint),
                                kExitUsage);
              }
              app = app->get_subcommand(word);
              name += " " + word;
            }
            fmt::print("{}", help_of(*app, name));
            return kExitOk;
          }};
}

int parse_and_run(int argc, char** argv) {
  CLI::App program{"Pictures from representation autoencoders and their diffusion transformers", "raedit"};
  program.footer(kFooter);
  program.set_version_flag("--version", std::string("raedit ") + kVersion, "Print the version and exit");
  program.set_help_flag("-h,--help", "Print this help and exit");
  program.require_subcommand(0, 1);
  program.formatter(std::make_shared<OneSpelling>());  // before there are commands, which inherit it
  const std::vector<Command> commands{add_generate(program),    add_labels(program),    add_info(program),
                                      add_reconstruct(program), add_convert(program),   add_compare(program),
                                      add_bench(program),       add_calibrate(program), add_reuse(program),
                                      add_stats(program),       add_train(program),     add_help(program)};
  if (const std::string option = option_without_value(argc, argv); !option.empty())
    return complain_of_empty_value(option);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    // A misspelt option comes before what is missing because of it.
    if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr ||
        (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && program.remaining_size(true) > 0))
      return complain(describe_extras(program), kExitUsage);
    return complain(error.what(), kExitUsage);
  }
  if (const std::string option = option_with_empty_value(program); !option.empty())
    return complain_of_empty_value(option);
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
