// Whether a transformer and an autoencoder speak of the same latents.
#pragma once

#include <string>

#include "raedit/autoencoder_rae.h"
#include "raedit/rae_dit_transformer.h"

namespace raedit {

// Throws Error(format) when the autoencoder's latents are token lists or maps of another size; `where` is for messages.
void check_latents_fit(const RAEDiT2DModelConfig& transformer, const AutoencoderRAEConfig& vae,
                       const std::string& where);

}  // namespace raedit
