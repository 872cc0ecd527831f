/** Fit for one line of a terminal, whoever the text is from: control and format characters become `\u{…}`. */
export function printable(text: string): string {
  return text.replace(/\p{C}/gu, (each) => `\\u{${each.codePointAt(0)?.toString(16)}}`);
}
