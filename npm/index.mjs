import offstage from "./index.cjs";

export const { addJob, addJobs } = offstage;
