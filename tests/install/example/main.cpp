#include <raedit/raedit.h>

int main() {
  raedit::Context ctx;
  auto pipeline = raedit::RAEDiTPipeline::from_pretrained("models/emoji64");
  auto output = pipeline(ctx, {.class_labels = pipeline.get_label_ids({"cat-face"}), .guidance_scale = 3, .seed = 7});
  raedit::save_png(output.pictures[0], "cat.png");
}
