import { type Document, isAlias, isMap, isScalar, isSeq, type LineCounter, type Node, type Pair } from 'yaml';

/** As much of JSON Schema (2020-12) as lpk's own schema uses; a test holds that it uses no more. */
export type Schema = {
  $ref?: string;
  type?: string | string[];
  enum?: unknown[];
  pattern?: string;
  minLength?: number;
  minimum?: number;
  maximum?: number;
  items?: Schema;
  minItems?: number;
  minProperties?: number;
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  $defs?: Record<string, Schema>;
};

/** Where, from 1, and what is wrong there. */
export type Fault = { line: number; column: number; message: string };

/** YAML text against a schema, with places in the text. All faults in the order of the text; none: it is valid. */
export function faultsOf(document: Document.Parsed, lines: LineCounter, schema: Schema): Fault[] {
  const place = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return { line, column: col };
  };
  const syntax = document.errors.map(({ message, pos }) => ({
    ...place(pos[0]),
    message: (message.split(/ at line \d+|\n/, 1)[0] as string).replace(/:$/, ''),
  }));
  if (syntax.length > 0) return syntax;
  const faults: Fault[] = [];
  check(document.contents, schema, '', 0);
  return faults.sort((a, b) => a.line - b.line || a.column - b.column);

  function check(given: Node | null, asked: Schema, path: string, from: number): void {
    const node = isAlias(given) ? (given.resolve(document) ?? null) : given; // the schema’s depth ends a circle
    const at = given?.range?.[0] ?? from;
    const fault = (message: string, offset = at) =>
      faults.push({ ...place(offset), message: path === '' ? message : `${path}: ${message}` });
    const wanted = asked.$ref ? definition(asked.$ref) : asked;
    const types = typesOf(node);
    const allowed = wanted.type === undefined ? [] : [wanted.type].flat();
    if (allowed.length > 0 && !allowed.some((type) => types.includes(type))) {
      fault(
        `expected ${listed(allowed.filter((type) => type !== 'integer' || !allowed.includes('number')))}, got ${got(node)}`,
      );
      return;
    }
    if (isMap(node)) checkMap(node.items as Pair<Node, Node | null>[], wanted, path, fault);
    else if (isSeq(node)) {
      if (node.items.length < (wanted.minItems ?? 0)) fault('is empty');
      node.items.forEach((item, i) => {
        if (wanted.items) check(item as Node, wanted.items, `${path}[${i}]`, at);
      });
    } else checkScalar(isScalar(node) ? node.value : null, wanted, fault);
  }

  function checkMap(
    pairs: Pair<Node, Node | null>[],
    wanted: Schema,
    path: string,
    fault: (message: string, offset?: number) => void,
  ): void {
    const names = new Set<string>();
    for (const { key, value } of pairs) {
      const name = String(isScalar(key) ? key.value : key);
      names.add(name);
      const offset = key.range?.[0] ?? 0;
      const own = wanted.properties && Object.hasOwn(wanted.properties, name) ? wanted.properties[name] : undefined;
      const schema = own ?? wanted.additionalProperties ?? true;
      if (schema === false)
        fault(`"${name}" is unknown; known: ${Object.keys(wanted.properties ?? {}).join(', ')}`, offset);
      else if (schema !== true) check(value, schema, path === '' ? name : `${path}.${name}`, offset);
    }
    for (const name of wanted.required ?? []) if (!names.has(name)) fault(`"${name}" is missing`);
    if (pairs.length < (wanted.minProperties ?? 0)) fault('is empty');
  }

  function definition(ref: string): Schema {
    return schema.$defs?.[ref.replace('#/$defs/', '')] as Schema;
  }
}

function checkScalar(value: unknown, wanted: Schema, fault: (message: string) => void): void {
  const quoted = JSON.stringify(value);
  if (wanted.enum && !wanted.enum.includes(value)) {
    fault(`expected ${wanted.enum.map((each) => JSON.stringify(each)).join(' or ')}, got ${quoted}`);
  }
  if (typeof value === 'string') {
    if (value.length < (wanted.minLength ?? 0)) fault('is empty');
    if (wanted.pattern && !new RegExp(wanted.pattern, 'u').test(value))
      fault(`${quoted} does not fit ${wanted.pattern}`);
  }
  if (typeof value === 'number') {
    const [least, most] = [wanted.minimum ?? Number.NEGATIVE_INFINITY, wanted.maximum ?? Number.POSITIVE_INFINITY];
    if (value < least || value > most) fault(`${value} is not from ${least} to ${most}`);
  }
}

function typesOf(node: Node | null): string[] {
  if (isMap(node)) return ['object'];
  if (isSeq(node)) return ['array'];
  const value = isScalar(node) ? node.value : null;
  if (value === null) return ['null'];
  if (typeof value !== 'number' && typeof value !== 'bigint') return [typeof value];
  return Number.isInteger(Number(value)) ? ['number', 'integer'] : ['number'];
}

const WORDS: Record<string, string> = {
  object: 'fields',
  array: 'a list',
  string: 'text',
  integer: 'a whole number',
  number: 'a number',
  boolean: 'true or false',
  null: 'nothing',
};

function listed(types: string[]): string {
  return types.map((type) => WORDS[type]).join(' or ');
}

function got(node: Node | null): string {
  const type = typesOf(node).at(-1) as string;
  return isScalar(node) && type !== 'null' ? `${WORDS[type]} (${JSON.stringify(node.value)})` : (WORDS[type] as string);
}
