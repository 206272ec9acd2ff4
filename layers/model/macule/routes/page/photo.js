"use strict";
// From a file to what is sent: upright, small, without metadata. Nothing leaves the browser here.

const photo = (() => {
  const LONGEST_PX = 768; // the network sees a third of it
  const MOST_BYTES = 140_000;
  const QUALITIES = [0.92, 0.85, 0.75, 0.6, 0.45];
  const LOOKED_AT_PX = 192; // for the next two, set on 259 dermoscopic and 192 phone photos
  const SHARP = 10; // variance of the Laplacian: 450 of them have more; blurred by 0.8 % of their length, 432 have less
  const [DARK, BRIGHT] = [70, 235]; // mean luma; theirs is 92 to 228
  const LEAST_PX = 200; // the network sees 256
  const NAMED = /\.(jpe?g|png|webp|gif|bmp|tiff?|hei[cf]|avif)$/i;

  /** Returns {file, small, url, width, height, flaws}; `small` is null for what this browser cannot read. */
  async function prepare(file) {
    try {
      // Chromium, Firefox and Safari turn it as EXIF says.
      const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
      const canvas = draw(bitmap, bitmap.width, bitmap.height, LONGEST_PX);
      bitmap.close();
      const flaws = examine(canvas);
      const small = await encode(canvas);
      return { file, small, url: URL.createObjectURL(small), width: canvas.width, height: canvas.height, flaws };
    } catch {
      return { file, small: null, url: "", width: 0, height: 0, flaws: [] };
    }
  }

  /** Is it worth sending? What says that it is something else is not. */
  function plausible(file) {
    return file.type.startsWith("image/") || !file.type || NAMED.test(file.name);
  }

  function draw(source, width, height, longest) {
    const scale = Math.min(1, longest / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const pen = canvas.getContext("2d", { alpha: false });
    pen.fillStyle = "#fff"; // behind transparency, as the service has it
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(source, 0, 0, canvas.width, canvas.height);
    return canvas;
  }

  /** Names what makes a photo hard to judge: blurred, dark, bright, small. */
  function examine(canvas) {
    const { width, height, data } = pixels(draw(canvas, canvas.width, canvas.height, LOOKED_AT_PX));
    const luma = new Float32Array(width * height);
    for (let at = 0; at < luma.length; at += 1) {
      luma[at] = 0.299 * data[4 * at] + 0.587 * data[4 * at + 1] + 0.114 * data[4 * at + 2];
    }
    const mean = luma.reduce((sum, value) => sum + value, 0) / luma.length;
    return [
      ["blurred", sharpness(luma, width, height) < SHARP], ["dark", mean < DARK], ["bright", mean > BRIGHT],
      ["small", Math.min(canvas.width, canvas.height) < LEAST_PX],
    ].filter(([, found]) => found).map(([flaw]) => flaw);
  }

  function pixels(canvas) {
    return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  }

  /** The variance of the Laplacian: how much a point differs from its neighbours. */
  function sharpness(luma, width, height) {
    let [count, sum, squares] = [0, 0, 0];
    for (let y = 1; y < height - 1; y += 1) {
      for (let x = 1; x < width - 1; x += 1) {
        const at = y * width + x;
        const change = 4 * luma[at] - luma[at - 1] - luma[at + 1] - luma[at - width] - luma[at + width];
        [count, sum, squares] = [count + 1, sum + change, squares + change * change];
      }
    }
    return count ? squares / count - (sum / count) ** 2 : 0;
  }

  async function encode(canvas) {
    let blob;
    for (const quality of QUALITIES) {
      blob = await toJpeg(canvas, quality);
      if (blob.size <= MOST_BYTES) break;
    }
    return blob;
  }

  function toJpeg(canvas, quality) {
    return new Promise((done) => { canvas.toBlob(done, "image/jpeg", quality); });
  }

  /** A camera's pictures in *video*; `open` fails with the browser's NotAllowedError and the like. */
  function camera(video) {
    let stream = null;
    let place = 0;

    async function open() {
      const found = await lenses();
      const lens = found[place % Math.max(1, found.length)];
      const chosen = lens?.deviceId ? { deviceId: lens.deviceId } : { facingMode: "environment" };
      const wanted = { width: { ideal: 1920 }, height: { ideal: 1080 }, ...chosen };
      const opened = await navigator.mediaDevices.getUserMedia({ video: wanted });
      close();
      stream = opened;
      video.srcObject = stream;
      await video.play();
      return (await lenses()).length;
    }

    async function lenses() {
      const devices = await navigator.mediaDevices.enumerateDevices();
      return devices.filter((device) => device.kind === "videoinput");
    }

    function close() {
      stream?.getTracks().forEach((track) => track.stop());
      stream = video.srcObject = null;
    }

    async function shoot() {
      const canvas = draw(video, video.videoWidth, video.videoHeight, Infinity);
      return new File([await toJpeg(canvas, 0.95)], "camera.jpg", { type: "image/jpeg" });
    }

    return { open, close, shoot, next: () => { place += 1; return open(); } };
  }

  return { prepare, plausible, camera };
})();
