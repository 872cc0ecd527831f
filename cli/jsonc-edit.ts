import { isDeepStrictEqual } from 'node:util';
import { createScanner, findNodeAtLocation, type JSONPath, type Node, parse, parseTree } from 'jsonc-parser';

/**
 * Edits of JSON with comments that leave every other byte where it was. (`modify` of jsonc-parser formats what is around its edit
 * anew, and puts new items before the comments of the item above.) The text must be valid; trailing commas may stand in it.
 */

const LENIENT = { allowTrailingComma: true };

/** With `value` as the last of the list or of the fields (then it has a `key`) at `at`, after all comments there. */
export function added(text: string, at: JSONPath, value: unknown, key?: string): string {
  const within = nodeAt(text, at);
  const end = within.offset + within.length - 1; // of its bracket
  const last = within.children?.at(-1);
  const lastEnd = last && last.offset + last.length;
  const hasComma = lastEnd !== undefined && isComma(text, lastEnd);
  const needsComma = lastEnd !== undefined && !hasComma;

  const outer = indentOf(text, within.offset);
  const inner = last && startsLine(text, last.offset) ? indentOf(text, last.offset) : outer + unitOf(text);
  const eol = eolOf(text);
  const name = key === undefined ? '' : `${JSON.stringify(key)}: `;
  const made = `${eol}${inner}${name}${written(value, inner, text)}${hasComma ? ',' : ''}`;

  const place = text.slice(0, end).trimEnd().length;
  const before = needsComma ? `${text.slice(0, lastEnd)},${text.slice(lastEnd, place)}` : text.slice(0, place);
  const space = text.slice(place, end);
  return `${before}${made}${space.includes('\n') ? space : `${eol}${outer}`}${text.slice(end)}`;
}

/** With `value` in place of what is at `at`; the text as it is when that is the same but for its form. */
export function replaced(text: string, at: JSONPath, value: unknown): string {
  const { offset, length } = nodeAt(text, at);
  const [start, end] = [offset, offset + length];
  if (isDeepStrictEqual(parse(text.slice(start, end), [], LENIENT), value)) return text;
  return text.slice(0, start) + written(value, indentOf(text, start), text) + text.slice(end);
}

function nodeAt(text: string, at: JSONPath): Node {
  const root = parseTree(text, [], LENIENT) as Node;
  return findNodeAtLocation(root, at) as Node;
}

/** Whether the next token after `offset`, comments left out, is a comma. */
function isComma(text: string, offset: number): boolean {
  const scanner = createScanner(text, true);
  scanner.setPosition(offset);
  scanner.scan();
  return text[scanner.getTokenOffset()] === ',';
}

function written(value: unknown, indent: string, text: string): string {
  return JSON.stringify(value, undefined, unitOf(text)).replaceAll('\n', `${eolOf(text)}${indent}`);
}

/** Of the line that `offset` is in. */
function indentOf(text: string, offset: number): string {
  return /^[ \t]*/.exec(text.slice(text.lastIndexOf('\n', offset - 1) + 1))?.[0] ?? '';
}

function startsLine(text: string, offset: number): boolean {
  return text.slice(text.lastIndexOf('\n', offset - 1) + 1, offset).trim() === '';
}

/** One level of indentation: that of the first indented line. */
function unitOf(text: string): string {
  return /^([ \t]+)\S/m.exec(text)?.[1] ?? '  ';
}

function eolOf(text: string): string {
  return text.includes('\r\n') ? '\r\n' : '\n';
}
