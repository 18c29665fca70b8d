# shellcheck shell=bash
# Tidiness of the project's text files; each check prints what is wrong and then fails.

LINES_MAX=600

# Files of the project, tracked or about to be, seen from the current folder.
project_files() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard | while IFS= read -r file; do
      [[ ! -f $file ]] || printf '%s\n' "$file"
    done
  else
    find . \( -name target -o -name node_modules -o -name '.*' ! -name . ! -name .ci \) -prune \
      -o -type f -print | sed 's|^\./||'
  fi
}

file_lengths() {
  local file lines status=0
  while IFS= read -r file; do
    lines=$(wc -l <"$file")
    if ((lines > LINES_MAX)); then
      printf '%s has %d lines; at most %d are allowed\n' "$file" "$lines" "$LINES_MAX" >&2
      status=1
    fi
  done < <(project_files | grep -E '\.(rs|js|mjs|sql|sh|proto|css|html)$|^scripts/[a-z]+$')
  return "$status"
}

# Words that promise to finish later, and places that exist on one machine only.
words() {
  local later='TO''DO|FIX''ME|XX''X|HA''CK|for no''w\b|\bstub(bed)?\b|\bplace''holder\b|simpli''fied'
  local places='(^|[^a-z.$}])/(wo''rk|ro''ot)/'
  ! project_files | grep -v -E '\.(html|css|lock|png|ico|svg)$|package-lock\.json$' |
    xargs -d '\n' grep -n -I -E "$later|$places" |
    grep -v -E 'placeholder *=|::placeholder|:placeholder-shown' >&2
}

migration_numbers() {
  local file number expected=1
  for file in sql/[0-9]*.sql; do
    number=${file#sql/}
    number=${number%%_*}
    if ((10#$number != expected)); then
      printf '%s comes where number %04d is expected\n' "$file" "$expected" >&2
      return 1
    fi
    expected=$((expected + 1))
  done
}

# What deny.toml bans below a version may not be linked; needs no cargo-deny.
version_floors() {
  local name floor version status=0 count=0
  while read -r name floor; do
    count=$((count + 1))
    while IFS= read -r version; do
      if [[ $version != "$floor" && $(printf '%s\n' "$version" "$floor" | sort -V | head -n 1) == "$version" ]]; then
        printf '%s %s is linked; %s or later is allowed\n' "$name" "$version" "$floor" >&2
        status=1
      fi
    done < <(grep -A 1 -x -F "name = \"$name\"" Cargo.lock | sed -n 's/^version = "\(.*\)"$/\1/p')
  done < <(sed -n 's/^ *{ crate = "\([a-z0-9_-]*\)@<\([0-9.]*\)" },$/\1 \2/p' deny.toml)
  ((count > 0)) || { printf 'deny.toml bans no version\n' >&2 && return 1; }
  return "$status"
}
