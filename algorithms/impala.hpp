// IMPALA's settings, for those that build on them. The algorithm is impala.cpp.
#pragma once

#include "algorithms/ops/vtrace.hpp"
#include "rl/config.hpp"

namespace myriad {

/// RLlib's names and defaults (Espeholt et al. 2018, "IMPALA"); RLlib fixes c-bar and lambda at 1.
struct ImpalaConfig : AlgorithmConfig {
  double lambda_ = 1.0;  ///< V-trace's lambda
  double vtrace_clip_rho_threshold = 1.0;
  double vtrace_clip_c_threshold = 1.0;
  double vtrace_clip_pg_rho_threshold = 1.0;
  double vf_loss_coeff = 0.5;
  Schedule entropy_coeff = 0.01;

  VtraceSettings vtrace() const {
    return {vtrace_clip_rho_threshold, vtrace_clip_c_threshold, vtrace_clip_pg_rho_threshold, lambda_};
  }
  void settings(SettingVisitor& v) override;
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<ImpalaConfig>(*this); }
};

/// RLlib's, but for min_time_s_per_iteration: its 10 s are too coarse for a run of a minute.
void impala_defaults(Config& config);

}  // namespace myriad
