throw new Error("nobody loads this");
