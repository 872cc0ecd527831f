/** Fit for one line of a terminal, whoever the text is from: control and format characters become `\u{…}`. */
export function printable(text: string): string {
  return text.replace(/\p{C}/gu, (each) => `\\u{${each.codePointAt(0)?.toString(16)}}`);
}

/** The same of each line of a text. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}
