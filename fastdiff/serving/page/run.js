// One request on the page: its images as they come out of the noise.

const SMALL = 256; // images of fewer pixels a side are enlarged with sharp pixels

export class Run {
  /** `announce` says something to those who listen instead of looking. */
  constructor(request, announce) {
    this.request = request;
    this.announce = announce;
    this.begin = performance.now();
    this.element = document.getElementById("run").content.firstElementChild.cloneNode(true);
    this.bar = this.element.querySelector("progress");
    this.step = this.element.querySelector(".progress span");
    this.facts = this.element.querySelector(".facts");
    this.title = describe(request);
    this.element.querySelector("h2").textContent = this.title;
    this.bar.setAttribute("aria-label", `Progress of ${this.title}`);
    this.figures = Array.from({ length: request.n }, (_, i) => this.makeFigure(i));
    this.element.querySelector(".images").append(...this.figures);
    this.step.textContent = "Waiting for its turn";
    this.steps = this.figures.map(() => 0);
    this.announced = 0; // of what `progress` says aloud
  }

  makeFigure(index) {
    const figure = document.getElementById("image").content.firstElementChild.cloneNode(true);
    const image = figure.querySelector("img");
    image.alt = this.nameOf(index);
    image.addEventListener("load", () => {
      image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL);
    });
    return figure;
  }

  nameOf(index) {
    return this.request.n === 1 ? this.title : `${this.title}, image ${index + 1}`;
  }

  /** Show an event of the stream: an estimate of an image, or the image. */
  show(event) {
    const figure = this.figures[event.image_index];
    const source = `data:image/${event.output_format};base64,${event.b64_json}`;
    figure.querySelector("img").src = source;
    if (event.type === "image_generation.partial_image") {
      this.progress(event);
    } else {
      this.complete(figure, source, event);
    }
  }

  /** Show how far the images are on average: the server may make one after the other. */
  progress({ image_index: index, step: own, steps: total }) {
    this.steps[index] = own;
    const step = this.steps.reduce((sum, one) => sum + one, 0) / this.steps.length;
    this.bar.max = total;
    this.bar.value = step;
    this.step.textContent = `Step ${Math.floor(step)} of ${total}`;
    const half = step >= total / 2 ? 2 : 1;
    if (half > this.announced) this.announce(half === 1 ? "The first images appear." : "Half done.");
    this.announced = Math.max(half, this.announced);
  }

  complete(figure, source, event) {
    const number = event.image ? `, image ${event.image}` : "";
    figure.querySelector("span").textContent = `Seed ${event.seed}${number}`;
    const link = figure.querySelector("a");
    link.href = source;
    link.download = `fastdiff-${event.seed}-${event.image}.${event.output_format}`;
    link.setAttribute("aria-label", `Download ${figure.querySelector("img").alt}`);
    link.hidden = false;
    this.last = event;
  }

  finish() {
    const seconds = ((performance.now() - this.begin) / 1000).toFixed(2);
    const { backend, queue_seconds: queued } = this.last;
    this.bar.parentElement.remove();
    this.facts.textContent =
      `${seconds} s, of which ${queued.toFixed(2)} s in the queue. ${backend}.`;
    this.announce(`Done: ${this.title}, in ${seconds} seconds.`);
  }

  cancel() {
    this.end("Cancelled.");
    this.announce("Cancelled.");
  }

  fail() {
    this.end("Failed.");
  }

  /** Leave what was seen of the images. */
  end(text) {
    this.bar.parentElement.remove();
    this.facts.textContent = text;
    for (const figure of this.figures) {
      if (!figure.querySelector("img[src]")) figure.remove();
    }
  }
}

/** Return the request in a few words. */
function describe(request) {
  const what = request.class_labels
    ? `Classes ${request.class_labels.join(", ")}`
    : request.prompt || "Any";
  const subject = /^\d+$/.test(what) ? `Class ${what}` : what;
  const guidance = request.guidance_scale === undefined ? "" : `, guidance ${request.guidance_scale}`;
  return `${subject}: ${request.num_inference_steps} steps of ${request.solver}${guidance}`;
}
