# Completion for fish: lxdocker completion fish | source, or this file as ~/.config/fish/completions/lxdocker.fish
function __lxdocker_complete
    set -l also
    set -l token (commandline -ct)
    # What stands before the value in --option=value.
    set -l before (string match -r '^--[^=]+=' -- $token)
    for line in (env _LXDOCKER_COMPLETE=(commandline -cp | string collect) lxdocker 2>/dev/null)
        if test -z "$also"
            set also $line
        else
            echo "$before$line"
        end
    end
    set -l rest (string replace -r '^--[^=]+=' '' -- $token)
    switch "$also"
        case files
            for path in (__fish_complete_path "$rest")
                echo "$before$path"
            end
        case dirs
            for path in (__fish_complete_directories "$rest" '')
                echo "$before$path"
            end
    end
end
complete -c lxdocker -f -a '(__lxdocker_complete)'
