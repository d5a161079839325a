#include "train/validation.h"

#include "io/staged_folder.h"

namespace raedit::train {

std::vector<Image> validation_pictures(Context& ctx, const models::ModelSource& source, const LoadOptions& load,
                                       const AutoencoderRAE& vae, const FlowMatchEulerDiscreteScheduler& scheduler,
                                       const ValidationOptions& options) {
  // A scheduler of its own: that of the run keeps the table of training.
  const RAEDiTPipeline pipeline(RAEDiT2DModel::from_source(source, load), vae,
                                FlowMatchEulerDiscreteScheduler(scheduler.config()));
  RAEDiTPipelineArguments arguments;
  arguments.class_labels = options.class_labels;
  arguments.num_images_per_prompt = options.images_per_class;
  arguments.guidance_scale = options.guidance_scale;
  arguments.num_inference_steps = options.num_inference_steps;
  arguments.seed = options.seed;
  return pipeline(ctx, arguments).pictures;
}

void save_pictures(const std::string& folder, const std::vector<Image>& pictures) {
  StagedFolder staged(folder);
  for (size_t i = 0; i < pictures.size(); ++i) save_png(pictures[i], staged.at("image-" + std::to_string(i) + ".png"));
  staged.commit();
}

}  // namespace raedit::train
