/** How a command's traffic gets to lpk. */

export const CAPTURES = ['auto', 'seccomp', 'env', 'none'] as const;
export type CaptureChoice = (typeof CAPTURES)[number];
