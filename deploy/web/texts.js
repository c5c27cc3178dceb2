// Every word that the page says, in English and Chinese.

export const TEXTS = {
  en: {
    title: "Faces from seeds",
    other: "中文",
    stage: "The face",
    tools: "Tools",
    loading: "Loading the model",
    progress: "Loading the model: {done} of {total} MB",
    starting: "Starting the network",
    ask: "A word or a number",
    askHint: "The same word is always the same face; a number is a seed, as for deploy/infer.py.",
    draw: "Generate",
    random: "The face of a random seed",
    randomShort: "Another",
    keep: "Keep as a favourite in this browser",
    keepShort: "Keep",
    save: "Save the image as PNG",
    saveShort: "PNG",
    share: "Copy the link to this view",
    shareShort: "Link",
    shared: "Link copied.",
    copyThis: "The link to this view:",
    wild: "Typical or unusual (truncation)",
    typicalEnd: "typical",
    wildEnd: "unusual",
    seed: "seed {seed}",
    changes: "changed {count}×",
    face: "Face {name}",
    grid: "Gallery",
    gridHint: "Each image is a seed. Choose one to see similar faces.",
    gridBack: "Back",
    gridMore: "More faces",
    children: "Variations",
    childrenHint: "Variations of the large face. Choose one to see its own variations.",
    far: "Difference",
    farSame: "similar",
    farOther: "different",
    brood: "Other variations",
    between: "Morph",
    betweenHint: "Two faces and the steps between them.",
    first: "First face",
    second: "Second face",
    useThis: "Use the large face",
    way: "Position",
    directions: "Directions",
    directionsHint: "The directions that change the output of the network's first layer most, with their shares. The small images show both ends of a slider.",
    direction: "Direction {number}",
    less: "direction {number}, minus end",
    more: "direction {number}, plus end",
    reset: "Reset",
    walk: "Walk",
    walkHint: "An endless walk from face to face. Pause at any time.",
    play: "Start",
    pause: "Pause",
    pace: "Seconds from face to face",
    kept: "Favourites",
    keptHint: "Choose one to see it large.",
    keptNone: "No favourites yet: ♥ keeps the large face in this browser.",
    keptNotStored: "This browser does not allow the page to store data: favourites are lost when the page is closed.",
    keptChildren: "Its variations",
    forget: "Remove it",
    facts: "Generated in this browser by {run}{step}, {size} × {size} pixels.",
    step: ", step {step}",
    offline: "Nothing leaves this device.",
    licence: "Licences",
    close: "Close",
    failures: {
      missing: "A file of this page is missing: {detail}. Copy the whole folder, or export again with: python tools/export.py --format web",
      damaged: "A file of this page is damaged or belongs to another export: {detail}. Copy the whole folder, or export again with: python tools/export.py --format web",
      unsupported: "This browser lacks a feature that the page needs: {detail}. Current versions of Chrome, Edge, Firefox and Safari have it.",
      broken: "The network failed to run: {detail}",
    },
  },
  zh: {
    title: "种子生成的人脸",
    other: "English",
    stage: "人脸",
    tools: "工具",
    loading: "正在加载模型",
    progress: "正在加载模型：{done} / {total} MB",
    starting: "正在启动网络",
    ask: "输入一个词或数字",
    askHint: "同一个词永远是同一张脸；数字就是种子，与 deploy/infer.py 相同。",
    draw: "生成",
    random: "随机种子的一张脸",
    randomShort: "换一张",
    keep: "收藏在这个浏览器里",
    keepShort: "收藏",
    save: "把图片保存为 PNG",
    saveShort: "PNG",
    share: "复制当前画面的链接",
    shareShort: "链接",
    shared: "链接已复制。",
    copyThis: "当前画面的链接：",
    wild: "典型还是少见（截断）",
    typicalEnd: "典型",
    wildEnd: "少见",
    seed: "种子 {seed}",
    changes: "变化 {count} 次",
    face: "人脸 {name}",
    grid: "画廊",
    gridHint: "每张图是一个种子。点一张，看相似的脸。",
    gridBack: "上一页",
    gridMore: "更多人脸",
    children: "相似变体",
    childrenHint: "大图的相似变体。点一张，再看它自己的变体。",
    far: "差异大小",
    farSame: "相似",
    farOther: "不同",
    brood: "换一批",
    between: "渐变",
    betweenHint: "两张脸，以及从一张到另一张的过渡。",
    first: "第一张脸",
    second: "第二张脸",
    useThis: "用当前大图",
    way: "位置",
    directions: "方向",
    directionsHint: "使网络第一层输出变化最大的几个方向及其占比。两侧的小图是滑块两端的样子。",
    direction: "方向 {number}",
    less: "方向 {number}，负向",
    more: "方向 {number}，正向",
    reset: "重置",
    walk: "漫步",
    walkHint: "从一张脸走到下一张，没有尽头，可随时暂停。",
    play: "开始",
    pause: "暂停",
    pace: "每张脸的秒数",
    kept: "收藏",
    keptHint: "点一张放大。",
    keptNone: "还没有收藏：点 ♥ 把大图收藏在这个浏览器里。",
    keptNotStored: "浏览器不允许本页存储数据：收藏只保留到页面关闭为止。",
    keptChildren: "看它的变体",
    forget: "移除",
    facts: "由 {run}{step} 在本浏览器中生成，{size} × {size} 像素。",
    step: "（第 {step} 步）",
    offline: "不会向外发送任何数据。",
    licence: "许可证",
    close: "关闭",
    failures: {
      missing: "缺少文件：{detail}。请复制整个文件夹，或重新导出：python tools/export.py --format web",
      damaged: "文件损坏，或来自另一次导出：{detail}。请复制整个文件夹，或重新导出：python tools/export.py --format web",
      unsupported: "这个浏览器缺少本页需要的功能：{detail}。新版 Chrome、Edge、Firefox、Safari 都可以。",
      broken: "网络无法运行：{detail}",
    },
  },
};

let language = "en";

/** The language for a browser that names its own ("zh-CN", "en-GB"). */
export function languageFor(browserLanguage) {
  return /^zh\b/i.test(browserLanguage ?? "") ? "zh" : "en";
}

/** Speak "en" or "zh" from now on, and update what the page shows: data-text is content, data-label a name, data-title a tip. */
export function speak(wanted) {
  language = wanted;
  document.documentElement.lang = wanted === "zh" ? "zh-Hans" : "en";
  document.title = text("title");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
  }
  for (const element of document.querySelectorAll("[data-title]")) element.title = text(element.dataset.title);
  document.getElementById("language").lang = wanted === "zh" ? "en" : "zh-Hans";
}

/** A text in the current language, with {names} filled in. */
export function text(name, values = {}) {
  const template = name.split(".").reduce((texts, part) => texts[part], TEXTS[language]);
  return template.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}
