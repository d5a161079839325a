#include "convert/key_rules.h"

#include <fmt/format.h>

#include "core/check.h"

namespace raedit::convert {
namespace {

std::string replaced(const std::string& name, std::string_view from, std::string_view to) {
  std::string result = name;
  const size_t at = result.find(from);
  return result.replace(at, from.size(), to);
}

const KeyRule* rule_for(const std::string& name, const std::vector<KeyRule>& rules, bool backwards) {
  for (const KeyRule& rule : rules)
    if (name.find(backwards ? rule.to : rule.from) != name.npos) return &rule;
  return nullptr;
}

constexpr std::string_view kProjections[] = {".to_q.", ".to_k.", ".to_v."};

// ".attn.to_q." -> ".attn.to_k."
std::string projection(std::string_view to, int which) {
  return replaced(std::string(to), kProjections[0], kProjections[which]);
}

}  // namespace

std::vector<KeyRule> stage2_rules() {
  return {
      {".mlp.w12.", ".mlp.net.0.proj.", Change::swap_halves},
      {".mlp.w3.", ".mlp.net.2."},
      {".mlp.fc1.", ".mlp.net.0.proj."},
      {".mlp.fc2.", ".mlp.net.2."},
      {".attn.qkv.", ".attn.to_q.", Change::split_qkv},
      {".attn.proj.", ".attn.to_out.0."},
  };
}

std::vector<KeyRule> stage2_rules(bool use_swiglu) {
  std::vector<KeyRule> rules = stage2_rules();
  const auto first = rules.begin();
  if (use_swiglu)
    rules.erase(first + 2, first + 4);
  else
    rules.erase(first, first + 2);
  return rules;
}

std::vector<KeyRule> decoder_rules() {
  return {
      {".attention.attention.query.", ".attention.to_q."},
      {".attention.attention.key.", ".attention.to_k."},
      {".attention.attention.value.", ".attention.to_v."},
      {".attention.output.dense.", ".attention.to_out.0."},
  };
}

std::vector<Recipe> apply_rules(const WeightSet& weights, const std::vector<KeyRule>& rules,
                                const std::string& prefix) {
  std::vector<Recipe> recipes;
  for (const std::string& name : weights.names()) {
    const KeyRule* rule = rule_for(name, rules, false);
    if (rule == nullptr) {
      recipes.push_back({prefix + name, {{name}}});
    } else if (rule->change == Change::split_qkv) {
      for (int i = 0; i < 3; ++i)
        recipes.push_back({prefix + replaced(name, rule->from, projection(rule->to, i)), {{name, i, 3}}});
    } else {
      const std::string target = prefix + replaced(name, rule->from, rule->to);
      if (rule->change == Change::swap_halves)
        recipes.push_back({target, {{name, 1, 2}, {name, 0, 2}}});
      else
        recipes.push_back({target, {{name}}});
    }
  }
  return recipes;
}

std::vector<Recipe> apply_backwards(const WeightSet& weights, const std::vector<KeyRule>& rules,
                                    const std::string& prefix) {
  std::vector<Recipe> recipes;
  for (const std::string& full : weights.names()) {
    if (!full.starts_with(prefix)) continue;
    const std::string name = full.substr(prefix.size());
    const KeyRule* rule = rule_for(name, rules, true);
    if (rule == nullptr) {
      bool joined_already = false;  // k and v come with q
      for (const KeyRule& r : rules)
        if (r.change == Change::split_qkv)
          joined_already |= name.find(projection(r.to, 1)) != name.npos || name.find(projection(r.to, 2)) != name.npos;
      if (!joined_already) recipes.push_back({name, {{full}}});
      continue;
    }
    Recipe recipe{replaced(name, rule->to, rule->from), {}};
    if (rule->change == Change::split_qkv)
      for (int i = 0; i < 3; ++i) recipe.pieces.push_back({prefix + replaced(name, rule->to, projection(rule->to, i))});
    else if (rule->change == Change::swap_halves)
      recipe.pieces = {{full, 1, 2}, {full, 0, 2}};
    else
      recipe.pieces = {{full}};
    recipes.push_back(std::move(recipe));
  }
  return recipes;
}

}  // namespace raedit::convert
