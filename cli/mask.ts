import net from 'node:net';

/** What stands where a secret was. */
const MASKED = '***';
/** Shorter ones are words of every text, and no secrets. */
const MIN_CHARS = 6;
/** Of a value with several lines (a key, a file), each that is so long is a secret of its own. */
const MIN_LINE_CHARS = 16;
/** Forms of whole values: a week of tokens that are new each hour, beside 2,000 variables. */
const MAX_WHOLE_FORMS = 8_192;
/** Forms of single lines: a bundle of certificates has as many as all else together. */
const MAX_LINE_FORMS = 4_096;

/** What gives itself away. RFC 6750 and RFC 7617; RFC 3986 3.2.1; RFC 7519; RFC 7468; `password=…` and its kin. */
const PATTERNS: [RegExp, string][] = [
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g, MASKED],
  [/\b(Bearer|Basic|Negotiate)(\s+)[\w.~+/=-]{6,}/gi, `$1$2${MASKED}`],
  [/(\w:\/\/)[^\s/@]*:[^\s@]*@/g, `$1${MASKED}@`],
  [/\beyJ[\w-]{8,}\.[\w.-]+/g, MASKED],
  [
    /\b([\w.-]*(?:token|secret|passw(?:or)?d|pwd|credentials?|(?:api|access|private)[-_]?key)["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;&"']+)/gi,
    `$1${MASKED}`,
  ],
];
/** Service links (`tcp://10.96.0.1:443`): addresses that every pod has. */
const SERVICE_LINK = /^(tcp|udp|sctp):\/\/[\d.:[\]a-f]+$/;
const SECRET_NAME = /token|secret|passw|credential|_pwd$|key$/i;

/**
 * The last filter before a text is kept or shown: what the session knows to be secret, in the forms that it may have in a text, and what
 * looks like a secret whoever it belongs to. What comes here was chosen to hold none.
 */
export class Mask {
  /** In the order they came: beyond the bound the oldest go, and what is used still comes again with the next request. */
  #wholes = new Set<string>();
  /** By the value they are of: beyond the bound those of the longest go, and never a whole value for a line. */
  #lines = new Map<string, string[]>();
  /** All of both, the longest first: one may hold another. */
  #forms: string[] = [];

  /** @param but what is no secret although it is among them: names that lpk itself says. */
  hide(values: Iterable<string>, but: Iterable<string> = []): void {
    const open = new Set(but);
    const closed = (form: string) => !open.has(form);
    let isNew = false;
    for (const value of values) {
      if (this.#wholes.has(value) || open.has(value) || net.isIP(value) !== 0 || SERVICE_LINK.test(value)) continue;
      const wholes = [value, value.trim()].flatMap(formsOf).filter(closed);
      for (const form of wholes) this.#wholes.add(form);
      const lines = linesOf(value).flatMap(formsOf).filter(closed);
      if (lines.length > 0) this.#lines.set(value, lines);
      isNew ||= wholes.length > 0;
    }
    if (!isNew) return; // credentials come with every request
    const tooMany = Math.max(0, this.#wholes.size - MAX_WHOLE_FORMS);
    for (const oldest of [...this.#wholes].slice(0, tooMany)) this.#wholes.delete(oldest);
    this.#lines = withinBound(this.#lines);
    const all = new Set([...this.#wholes, ...[...this.#lines.values()].flat()]);
    this.#forms = [...all].sort((a, b) => b.length - a.length);
  }

  apply(text: string): string {
    const without = this.#forms.reduce((rest, value) => rest.replaceAll(value, MASKED), text);
    return PATTERNS.reduce((rest, [pattern, instead]) => rest.replace(pattern, instead), without);
  }
}

/** The same for every text within a value. */
export function maskAll<T>(value: T, mask: Mask): T {
  if (typeof value === 'string') return mask.apply(value) as T;
  if (Array.isArray(value)) return value.map((each) => maskAll(each, mask)) as T;
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, maskAll(each, mask)])) as T;
}

/** Values of this process's own variables that their names call secret. */
export function secretVariables(env: NodeJS.ProcessEnv): string[] {
  return Object.entries(env).flatMap(([name, value]) => (value && SECRET_NAME.test(name) ? [value] : []));
}

/** Lines that are secrets of their own. */
function linesOf(value: string): string[] {
  const lines = value.split('\n').map((line) => line.trim());
  return lines.length > 1 ? lines.filter((line) => line.length >= MIN_LINE_CHARS) : [];
}

function withinBound(lines: Map<string, string[]>): Map<string, string[]> {
  const fewestFirst = [...lines].sort(([, a], [, b]) => a.length - b.length);
  const kept = new Map<string, string[]>();
  let room = MAX_LINE_FORMS;
  for (const [value, forms] of fewestFirst) {
    if (room === 0) break;
    const fitting = forms.slice(0, room);
    kept.set(value, fitting);
    room -= fitting.length;
  }
  return kept;
}

function formsOf(part: string): string[] {
  if (part.length < MIN_CHARS) return [];
  return [
    part,
    JSON.stringify(part).slice(1, -1),
    encodeURIComponent(part.toWellFormed()),
    Buffer.from(part).toString('base64'),
  ];
}
