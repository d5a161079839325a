// Everything.
#pragma once

#include "raedit/autoencoder_rae.h"
#include "raedit/calibration.h"
#include "raedit/context.h"
#include "raedit/convert.h"
#include "raedit/encoder_reuse_search.h"
#include "raedit/error.h"
#include "raedit/flow_match_euler_discrete.h"
#include "raedit/generator.h"
#include "raedit/hub.h"
#include "raedit/image.h"
#include "raedit/progress.h"
#include "raedit/rae_dit_pipeline.h"
#include "raedit/rae_dit_transformer.h"
#include "raedit/tensor.h"
